"""Files in other tools' formats."""
