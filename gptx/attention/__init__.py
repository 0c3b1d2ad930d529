"""Attention types. One file a variant; `base.Attention` is the contract: two verbs, `rotate` and `attend`."""
