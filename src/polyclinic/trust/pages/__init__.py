"""Evidence for a person: the report, its parts and its pictures."""
