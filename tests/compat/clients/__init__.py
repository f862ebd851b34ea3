"""One script a client: each makes the same calls in its own way and prints what it found.

They run in environments of their own, so they import nothing of ours but `checks`.
"""
