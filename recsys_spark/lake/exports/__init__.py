"""Published lists outside of Delta, a file a kind of place: each holds one whole generation of a
name, and the same lists written twice leave it as it is.
"""
