"""Commands on completed runs: compare them, show a user, repeat one. Called by the command line;
they call the stages.
"""
