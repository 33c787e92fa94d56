"""Heads: small linear models on frozen fingerprints, calibrated, with intervals and abstention."""
