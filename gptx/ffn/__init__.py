"""Feed-forward variants, one file each. `base.FFN` is the contract."""
