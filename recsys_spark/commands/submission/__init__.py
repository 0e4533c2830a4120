"""Answer files of challenges: every file writes and checks one challenge's."""
