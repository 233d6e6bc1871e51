"""What images and videos share: decoding, resizing, statistics, colour and augmented views of pixels.

Modality packages do not import each other; what two of them need lives here.
"""
