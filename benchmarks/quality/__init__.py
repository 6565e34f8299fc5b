"""How good results are, on public data and on made streams whose truth is known."""
