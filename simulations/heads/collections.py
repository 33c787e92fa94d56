"""The open collections that the project's development data are cut from, with their licences.

A folder of another name is "not stated" unless the command says what it is.
"""

from __future__ import annotations

KNOWN = {
    "icu_bidmc": ("BIDMC PPG and Respiration 1.0.0", "ODC-By 1.0; Pimentel 2017"),
    "icu_alarms": ("PhysioNet/CinC Challenge 2015", "ODC-By 1.0; Clifford 2015"),
    "clinic_ppg_bp": ("PPG-BP, Guilin", "CC0 1.0; Liang 2018"),
    "holter_mitdb": ("MIT-BIH Arrhythmia", "ODC-By 1.0; Moody 2001"),
    "identity_ecg_id": ("ECG-ID", "ODC-By 1.0; Lugovaya 2005"),
    "quality_cinc2011": ("PhysioNet/CinC Challenge 2011", "ODC-By 1.0; Silva 2011"),
}
"""By the beginning of a folder's name: what it is, and its licence with whom to cite."""
NOT_STATED = "not stated"


def about(folder: str) -> tuple[str, str]:
    """What a folder is and its licence, as far as its name tells."""
    for name, words in KNOWN.items():
        if folder == name or folder.startswith(f"{name}_"):
            return words
    return NOT_STATED, NOT_STATED
