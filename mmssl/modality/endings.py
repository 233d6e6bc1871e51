"""Endings of files of pictures, sounds and videos, in small letters."""

from __future__ import annotations

_PICTURES = """png jpg jpeg npy apng jpe jfif webp gif bmp dib tif tiff avif avifs heic heif hif jxl jp2 j2k jpc jpf
    jpx j2c ppm pgm pbm pnm pfm tga ico icns pcx dcx dds psd sgi rgb rgba bw ras mpo xbm xpm qoi fits fit blp cur fli
    flc im msp pcd pxr"""
_SOUNDS = """wav flac mp3 ogg m4a opus aac aiff wave wavex oga m4b ac3 amr aif aifc au snd caf w64 rf64 wma mka voc avr
    htk ircam nist paf pvf sd2 sds svx wve xi spx"""
_VIDEOS = "mp4 mov mpg webm avi mkv m4v mpeg mpe wmv flv f4v 3gp 3g2 ogv ogm asf mts m2ts ts vob mxf nut"

PICTURES = tuple(f".{ending}" for ending in _PICTURES.split())
SOUNDS = tuple(f".{ending}" for ending in _SOUNDS.split())
VIDEOS = tuple(f".{ending}" for ending in _VIDEOS.split())
