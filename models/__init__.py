"""Fitting, calibration, metrics and the model bundle."""
