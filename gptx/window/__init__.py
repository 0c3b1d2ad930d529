"""Windows: how far back a token may look. One file a variant; `base.Window` is the contract."""
