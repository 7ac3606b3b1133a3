"""Fuzzing of every parser that reads what somebody else wrote. See README.md here."""
