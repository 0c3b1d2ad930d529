"""How fast gptx is, beside its peers: commands that print the README's figures."""
