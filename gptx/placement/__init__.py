"""Where a block's norms stand. One file a variant; `base.Block` is the contract."""
