"""Raw files: descriptions, locations, downloads."""
