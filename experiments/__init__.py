"""Thin scripts, one per job: parse, build, fit, report. No algorithm lives here."""
