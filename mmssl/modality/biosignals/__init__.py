"""What EEG and ECG share: recordings of named voltage channels, their units, rates, filters, views and spectra.

Modality packages do not import each other; what two of them need lives here.
"""
