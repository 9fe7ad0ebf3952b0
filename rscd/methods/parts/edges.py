"""Image edges for the scene branch's smoothness term."""

import cv2
import numpy as np
import torch
from torch import Tensor

from rscd.methods.parts.photometric import ValueRange

BLUR_SIDE, BLUR_SIGMA = 5, 1.0
LUMA = (0.299, 0.587, 0.114)
"""Grey weights of red, green and blue; other band counts are averaged."""


def canny_edges(
    image: Tensor, value_range: ValueRange, thresholds: tuple[float, float] = (100.0, 200.0)
) -> Tensor:
    """Canny edges of 8-bit grey images after a slight blur.

    Args:
        image: (B,C,H,W) raw values of one date.
        value_range: (black, white) of the raw values.
        thresholds: of the hysteresis, for grey values of 0 to 255 and an aperture of 3.

    Returns:
        (B,1,H,W) float32 0 or 1, on the device of the image.
    """
    low, high = value_range
    weights = LUMA if image.shape[1] == 3 else (1 / image.shape[1],) * image.shape[1]
    gray = (image.float() * torch.tensor(weights).to(image.device).view(1, -1, 1, 1)).sum(1)
    bytes_ = ((gray - low) / (high - low) * 255).round().clamp(0, 255).byte().cpu().numpy()
    found = [
        cv2.Canny(cv2.GaussianBlur(one, (BLUR_SIDE, BLUR_SIDE), BLUR_SIGMA), *thresholds) > 0
        for one in bytes_
    ]
    return torch.from_numpy(np.stack(found)[:, None]).to(image.device, torch.float32)
