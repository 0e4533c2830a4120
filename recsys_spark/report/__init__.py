"""Plain data in, one self-contained HTML page out."""
