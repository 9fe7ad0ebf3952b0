"""Networks: image (B,2,C,H,W) in, outputs out; no losses."""
