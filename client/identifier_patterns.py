"""Regular expressions of the identifier scan: dates, numbers, phones, addresses, keyed names."""

from __future__ import annotations

import re

_YEAR = r"(?P<y>(?:18|19|20)\d\d)"
_DAY = r"(?P<d>0?[1-9]|[12]\d|3[01])"
_DAY2 = r"(?P<d>0[1-9]|[12]\d|3[01])"
_MONTH = r"(?P<m>0?[1-9]|1[0-2])"
_MONTH2 = r"(?P<m>0[1-9]|1[0-2])"
_GAP = r"[-./_ ]"
_NAMED = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zä]*"
_NTH = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th|\.)?"

DATES = tuple(
    re.compile(rf"(?<!\d){body}(?!\d)", re.IGNORECASE)
    for body in (
        _YEAR + _GAP + _MONTH + _GAP + _DAY,
        _YEAR + _MONTH2 + _DAY2,
        _DAY + _GAP + _MONTH + _GAP + _YEAR,
        _MONTH + _GAP + _DAY + _GAP + _YEAR,
        _DAY2 + _MONTH2 + _YEAR,
        _MONTH2 + _DAY2 + _YEAR,
        _DAY + r"[./-]" + _MONTH + r"[./-](?P<y>\d\d)(?!\.\d)",
        _MONTH + r"/" + _DAY + r"/(?P<y>\d\d)(?!\.\d)",
        rf"{_NTH}[-./_ ]*{_NAMED}[-./_, ]*(?P<y>(?:18|19|20)?\d\d)",
        rf"(?<![a-z]){_NAMED}[-./_ ]*{_NTH}[-./_, ]+(?P<y>(?:18|19|20)\d\d)",
        rf"(?P<y>(?:18|19|20)\d\d)[-./_ ]*{_NAMED}[-./_ ]*{_NTH}",
    )
)
"""Exact dates: year first, day first, month first, with and without separators, months as words."""

BIRTH = re.compile(
    r"(?<![a-z])(?:dob|d\.o\.b|birth|born|geb(?:\.|oren|urt\w*)?(?![a-z])|naissance|n[ée]e? le|"
    r"nac(?:imiento|ido)|nascita|nascimento|geboren|født|syntym)",
    re.IGNORECASE,
)
BIRTH_YEAR = re.compile(BIRTH.pattern + r"\D{0,12}(?:18|19|20)\d\d(?!\d)", re.IGNORECASE)

EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]+")
NETWORK = re.compile(
    r"(?:https?|ftp)://\S+|(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"
    r"|(?<![\w:])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:])",
    re.IGNORECASE,
)

_KEYS = "|".join(
    (
        r"mrn",
        r"m\.r\.n",
        r"(?:pat(?:ient)?|hosp(?:ital)?|med(?:ical)?|unit|case|chart|record|file|admission|visit|"
        r"subject|health)s?"
        r"[ _.-]*(?:rec(?:ord)?)?[ _.-]*(?:id|no|nr|number|num|nummer|#)",
        r"med(?:ical)?[ _.-]*rec(?:ord)?",
        r"mr ?#",
        r"pat[-_ ](?=\d{5})",
        r"chart",
        r"fall[ _-]?(?:nummer|nr)",
        r"accession",
        r"acc[ _-]?no",
        r"nhs|ssn|insurance|policy|kvnr|svnr|hicn|nir|bsn|cpr|pid|ahv|passport|hn|uhid|emr|ehr",
    )
)
KEYED_NUMBER = re.compile(
    rf"(?<![a-z])(?:{_KEYS})[ _.:#=\-]*(?:no|nr|number|id)?[ _.:#=\-]*"
    r"(?=[a-z\d\-/]*\d)[a-z]{0,4}[- ]?\d[\w\-/]+",
    re.IGNORECASE,
)
"""A key (MRN, case no., insurance ...) before something of two characters or more with a digit."""
NUMBERS = (
    re.compile(r"(?<!\d)\d{3}[- ]\d{2}[- ]\d{4}(?!\d)"),  # US social security
    re.compile(r"(?<!\d)\d{3}[- ]\d{3}[- ]\d{4}(?!\d)"),  # NHS
    re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{1,4}[-_ ]?\d{6,12}(?!\d)"),  # letters and a long number
    re.compile(r"(?<![\d.])\d{6,}(?!\d)(?!\.\d)"),  # a long whole number
    re.compile(r"(?<![\d.-])\d{2,4}[- /]\d{2,4}[- /]\d{2,6}(?![\d.])"),  # 12-34-56
    re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{1,4}[-.]\d{2,}[-./]\d{3,}(?!\d)"),  # XK-99-1234
)

PHONE = re.compile(
    "|".join(
        (
            r"(?:tel|phone|fon|fone|mobil\w*|cell|fax|call|handy)\.?\w*[ :._=-]*"
            r"[+(]?\d[\d ()./-]{3,}\d",
            r"\+\d{1,3}[ .()/-]?(?:\d[ .()/-]{0,2}){5,12}\d",
            r"(?<![\d.])\(?0\d{1,5}\)?[ /-]\d[\d /-]{2,}",
            r"\(\d{3}\)[ -]?\d{3}[ -]?\d{4}",
            r"(?<!\d)\d{3}[.-]\d{4}(?!\d)",
            r"(?<!\d)\d{3}[.-]\d{3}[.-]\d{4}(?!\d)",
        )
    ),
    re.IGNORECASE,
)

_STREETS = (
    r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|square|sq|"
    r"way|terrace|close|crescent|parkway|highway)"
)
_STRASSEN = (
    r"(?:stra(?:ß|ss)e|str\.|weg|platz|allee|gasse|ring|ufer|damm|straat|gata|gatan|vej|katu)"
)
ADDRESS = re.compile(
    "|".join(
        (
            rf"(?<!\w)\d{{1,5}}[a-z]?,? +(?:[^\W\d_][\w'.-]{{0,30}} +){{1,4}}{_STREETS}(?!\w)",
            r"(?<!\w)[^\W\d_][\w.']{0,30}(?:[ -][^\W\d_][\w.']{0,30}){0,3}?[ -]?"
            rf"{_STRASSEN} *\d+",
            r"(?<!\w)(?:rue|avenue|boulevard|viale|piazza|calle|avenida|plaza|rua|ulica|ul\.)"
            r" +[\w' .-]{2,40}",
            r"(?<!\w)via +[^\W\d_][\w' .]{2,40}\d",
            r"(?<!\w)p\.? ?o\.? box +\d+",
            r"(?<!\w)(?:address|adresse|anschrift|street|city|zip|postcode|plz|indirizzo|direcci[oó]n|town)"
            r" *[:=] *\S+",
            r"(?<!\w)[a-z]{1,2}\d[a-z\d]? \d[a-z]{2}(?!\w)",
            r"(?<!\w)[a-z]{2},? \d{5}(?:-\d{4})?(?!\w)",
            r"(?<!\w)\d{4,5} [^\W\d_]{4,}(?: am [^\W\d_]+)?(?!\w)",
        )
    ),
    re.IGNORECASE,
)
"""Streets before or after a number, postal codes, PO boxes, anything after an address key."""

KEYED_NAME = re.compile(
    r"(?<![a-z])(?:"
    r"(?:patient|pat|subject|sur|last|first|given|family|full|vor|nach|fore)?[ _-]?name|"
    r"nom|prenom|prénom|nombre|apellidos?|cognome|nome|patient|pt|pat|subject|proband|physician|"
    r"doctor|operator|technician|nurse|arzt)"
    r"(?:\s*>?\s*[:=]\s*|\s+is\s+)(?P<value>[^\d\s,;:=][^\d,;:=]+)",
    re.IGNORECASE,
)
PERSON = re.compile(
    r"(?<![a-z])(?:[Pp]atient|PATIENT|[Pp]t\.?|[Nn]ame|NAME)\s+(?P<value>[^\W\d_]{2,})"
)
"""A person's key directly before a word."""
FAMILY_GIVEN = re.compile(r"[^\W\d]{2,}\^[^\W\d]+")
"""DICOM's way to write a person."""
WORD = re.compile(r"[^\W\d_]+(?:['’\-.][^\W\d_]+)*\.?")
CASELESS = re.compile(
    r"[\u0590-\u06ff\u0900-\u0dff\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2,}"
)
"""Scripts without capitals (Hebrew, Arabic, Indic, Thai, Japanese, Chinese, Korean)."""
DECIMAL = re.compile(r"^[+-]?\d*\.\d+(?:[eE][+-]?\d+)?$|^[+-]?\d+(?:\.\d*)?[eE][+-]?\d+$")
"""A measured number, which is no identifier however many digits it has."""
