"""Figures of challenges as their organisers compute them: every file is one challenge's."""
