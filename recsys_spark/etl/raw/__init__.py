"""Raw rows -> tables: cleaned, checked, or quarantined with a reason."""
