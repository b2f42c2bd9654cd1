"""What libraries import, and read, for features that nobody here uses, left out.

Half a second here and two there, of every task that trains or has transformers
answer; on a laptop those are most of what a small run waits for. Each is a
change of no result, and where a library is another than the one looked at, it
is imported as it wants to be.
"""
