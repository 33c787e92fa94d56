"""Probes of frozen fingerprints on real recordings: linear, patient-disjoint, with intervals."""
