"""Attention variants, one file each. `base.Attention` is the contract: it calls `view.rotate` and `view.attend`."""
