"""Windows: which earlier tokens a token may see. One file per variant; `base.Window` is the contract."""
