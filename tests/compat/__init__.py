"""Other people's clients against a real agent: what they send is understood, what they get fits."""
