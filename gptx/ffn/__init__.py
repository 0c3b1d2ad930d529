"""Feed-forward networks. One file a variant; `base.FFN` is the contract."""
