"""DICOM waveforms by `pydicom`, from bytes in memory: no declared length can allocate more."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.formats.base import (
    MAXIMUM_CHANNELS,
    MAXIMUM_IN_MEMORY_BYTES,
    MAXIMUM_SAMPLES,
    Outline,
    Parsed,
    Signal,
    Text,
    checked_rate,
    checked_samples,
    decode,
    digest_files,
    fail,
    guarded,
    read_bytes,
)

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_UNPACKED = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN})
"""Implicit little, explicit little, explicit big endian; deflated files inflate without bound."""
_MAXIMUM_ELEMENTS = 100_000
_MAXIMUM_DEPTH = 16
_UNDEFINED = 0xFFFFFFFF
_SAMPLE_BYTES = {
    ("SB", 8): 1,
    ("UB", 8): 1,
    ("SS", 16): 2,
    ("US", 16): 2,
    ("SL", 32): 4,
    ("UL", 32): 4,
}

KINDS = {
    "PatientName": "name",
    "OtherPatientNames": "name",
    "PatientBirthName": "name",
    "PatientMotherBirthName": "name",
    "ResponsiblePerson": "name",
    "PatientID": "record-number",
    "OtherPatientIDs": "record-number",
    "IssuerOfPatientID": "record-number",
    "MedicalRecordLocator": "record-number",
    "AdmissionID": "record-number",
    "AccessionNumber": "record-number",
    "StudyID": "record-number",
    "MilitaryRank": "free-text",
    "InsurancePlanIdentification": "record-number",
    "PatientBirthDate": "birth-date",
    "PatientBirthTime": "birth-date",
    "PatientBirthDateInAlternativeCalendar": "birth-date",
    "PatientAddress": "address",
    "PatientTelephoneNumbers": "phone",
    "PatientTelecomInformation": "phone",
    "CountryOfResidence": "address",
    "RegionOfResidence": "address",
    "ReferringPhysicianAddress": "address",
    "ReferringPhysicianTelephoneNumbers": "phone",
    "InstitutionName": "institution",
    "InstitutionAddress": "address",
    "InstitutionalDepartmentName": "institution",
    "StationName": "device",
    "DeviceSerialNumber": "device",
    "PatientComments": "free-text",
    "AdditionalPatientHistory": "free-text",
    "StudyComments": "free-text",
    "ImageComments": "free-text",
    "VisitComments": "free-text",
    "AcquisitionComments": "free-text",
    "RequestAttributesSequence": "",
    "Occupation": "free-text",
    "EthnicGroup": "free-text",
    "PatientReligiousPreference": "free-text",
    "RequestingService": "institution",
    "UnformattedTextValue": "free-text",
    "TextValue": "free-text",
    "CurrentPatientLocation": "address",
}
_DATES = frozenset({"DA", "DT"})
_TEXTS = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "CS", "UR", "AE", "IS"})


@dataclass(frozen=True)
class _Channel:
    name: str
    unit: str
    group: int
    index: int
    scale: float
    offset: float


def looks_like(head: bytes) -> bool:
    """True for a DICOM file of part 10 (preamble and mark)."""
    return head[128:132] == b"DICM"


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom warns about values that it mends; here each is either accepted or a fault."""
    with guarded("DICOM file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def outline(path: Path) -> Outline:
    """Parse the whole file from memory; channels of all multiplex groups, texts of all elements."""
    import pydicom
    from pydicom.filereader import _read_file_meta_info, read_preamble

    data = read_bytes(path, MAXIMUM_IN_MEMORY_BYTES)
    with _quiet():
        stream = io.BytesIO(data)
        read_preamble(stream, force=False)
        meta = _read_file_meta_info(stream)
        syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax not in _UNPACKED:
        fail(
            "unsupported", "The transfer syntax is packed or unknown.", do="Export it uncompressed."
        )
    with _quiet():
        dataset = pydicom.dcmread(io.BytesIO(data))
        texts = tuple(_texts(dataset))
        groups = dataset.get("WaveformSequence")
        if not groups:
            fail("not-a-recording", "The DICOM file holds no waveform.")
        channels = tuple(_channels(groups))
        patient = str(dataset.get("PatientID", "") or "").strip()
    return Outline(
        format="dicom",
        channels=tuple(channel.name for channel in channels),
        texts=texts,
        patient=patient,
        handle=(groups, channels, syntax == _BIG_ENDIAN),
    )


def read(path: Path, seen: Outline, chosen: dict[str, str]) -> Parsed:
    """Read the chosen channels (role -> name) out of their multiplex groups. Raises DataFault."""
    from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES

    groups, channels, big_endian = seen.handle
    signals = {}
    with _quiet():
        for role, name in chosen.items():
            channel = next(item for item in channels if item.name == name)
            group = groups[channel.group]
            count, length = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
            kind = (int(group.WaveformBitsAllocated), str(group.WaveformSampleInterpretation))
            dtype = np.dtype(WAVEFORM_DTYPES[kind])
            if big_endian:
                dtype = dtype.newbyteorder(">")
            raw = np.frombuffer(group.WaveformData, dtype=dtype, count=length * count)
            digital = raw.reshape(length, count)[:, channel.index]
            samples = digital.astype(np.float64) * channel.scale + channel.offset
            padding = group.get("WaveformPaddingValue")
            if isinstance(padding, bytes) and len(padding) >= dtype.itemsize:
                samples[digital == np.frombuffer(padding, dtype=dtype, count=1)[0]] = np.nan
            fs_hz = checked_rate(float(group.SamplingFrequency))
            signals[role] = Signal(name, checked_samples(samples), fs_hz, channel.unit)
    return Parsed(signals=signals, digest=digest_files((path,)))


def _channels(groups: Any) -> Iterator[_Channel]:
    """Channels of the groups that are originals, declared sizes checked against the data."""
    total = 0
    for number, group in enumerate(groups):
        count, length = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
        total += count
        if total > MAXIMUM_CHANNELS or length > MAXIMUM_SAMPLES:
            fail("too-large", "A waveform declares too many channels or samples.")
        if count < 1 or length < 1:
            fail("no-samples", "A waveform declares no samples.")
        kind = (str(group.WaveformSampleInterpretation), int(group.WaveformBitsAllocated))
        if kind not in _SAMPLE_BYTES:
            fail("unsupported", "The waveform's sample type is not read.")
        if len(group.WaveformData or b"") < count * length * _SAMPLE_BYTES[kind]:
            fail(
                "truncated",
                "The waveform is shorter than declared.",
                do="Copy the file again from its source.",
            )
        definitions = group.get("ChannelDefinitionSequence") or ()
        if len(definitions) != count:
            fail("bad-header", "The waveform's channel definitions do not match its channels.")
        for index, definition in enumerate(definitions):
            yield _channel(definition, number, index)


def _channel(definition: Any, group: int, index: int) -> _Channel:
    source = list(definition.get("ChannelSourceSequence") or [])
    meaning = str(source[0].get("CodeMeaning", "")) if source else ""
    name = meaning or str(definition.get("ChannelLabel", "")) or f"channel {group}.{index}"
    units = list(definition.get("ChannelSensitivityUnitsSequence") or [])
    unit = str(units[0].get("CodeValue", "")) if units else ""
    scale = _number(definition, "ChannelSensitivity", 1.0) * _number(
        definition, "ChannelSensitivityCorrectionFactor", 1.0
    )
    return _Channel(name, unit, group, index, scale, _number(definition, "ChannelBaseline", 0.0))


def _number(definition: Any, keyword: str, default: float) -> float:
    value = definition.get(keyword)
    number = default if value is None or value == "" else float(value)
    if not math.isfinite(number) or abs(number) > 1e9:
        fail("bad-header", "A channel's sensitivity or baseline is out of range.")
    return number


def _texts(dataset: Any) -> Iterator[Text]:
    """Every text, date and person of the file, sequences too, with the kind its tag implies."""
    stack = [(dataset, 0)]
    seen = 0
    while stack:
        item, depth = stack.pop()
        if depth > _MAXIMUM_DEPTH:
            fail("bad-header", "The DICOM file nests too deep.")
        for key in list(item.keys()):
            raw = item.get_item(key)
            if (
                isinstance(raw.value, bytes)
                and len(raw.value) < getattr(raw, "length", 0) < _UNDEFINED
            ):
                fail(
                    "truncated",
                    "An element is shorter than it declares.",
                    do="Copy the file again.",
                )
            element = item[key]
            seen += 1
            if seen > _MAXIMUM_ELEMENTS:
                fail("too-large", f"The DICOM file has more than {_MAXIMUM_ELEMENTS} elements.")
            if element.VR == "SQ":
                stack.extend((child, depth + 1) for child in element.value)
                continue
            text = _text_of(element)
            if text is not None:
                yield text


def _text_of(element: Any) -> Text | None:
    tag, vr, value = element.tag, str(element.VR), element.value
    if value in (None, "", b""):
        return None
    where = str(element.keyword) or f"({tag.group:04x},{tag.element:04x})"
    if tag.is_private:
        if isinstance(value, bytes):
            value = decode(value).strip("\x00 ")
            if not value.isprintable():
                return None
        is_creator = tag.is_private_creator
        return None if is_creator else Text(f"private tag {where}", str(value), "private-tag")
    hint = KINDS.get(element.keyword, "")
    if hint:
        return Text(where, str(value), hint)
    if vr == "PN":
        return Text(where, str(value), "name")
    if vr in _DATES:
        return Text(where, str(value), "recording-date")
    if element.keyword.endswith(("Comments", "Comment", "Description")) and vr not in _TEXTS:
        return Text(where, str(value), "free-text")
    return Text(where, str(value)) if vr in _TEXTS else None
