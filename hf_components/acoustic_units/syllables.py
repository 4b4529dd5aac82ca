"""Units as long as syllables, without training: frames between two changes of sound have their mean as features."""

import torch
from torch import nn

SPAN = 4  # frames on each side that are compared: 80 ms
NEAREST = 4  # frames between which there is one boundary only: syllables last 100 ms or more


def pooled(features: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Each frame gets the mean features of the stretch that it is in.

    Args:
        features: `(batch, frames, dim)`.
        num_frames: frames of each clip `(batch,)`.
    Returns:
        `(batch, frames, dim)`; frames after the end of a clip are zero.
    """
    clips = []
    for clip, count in zip(features, num_frames.tolist(), strict=True):
        clip = clip[:count]
        stretch = boundaries(clip).cumsum(0)
        sums = clip.new_zeros(int(stretch[-1]) + 1, clip.shape[1]).index_add(0, stretch, clip)
        clips.append((sums / torch.bincount(stretch)[:, None])[stretch])
    return nn.utils.rnn.pad_sequence(clips, batch_first=True)


def boundaries(features: torch.Tensor) -> torch.Tensor:
    """Whether a stretch starts at a frame; the first frame starts the first stretch, which is not marked.

    A boundary is where the frames before and after are most unlike: a peak of 1 - the cosine of their means, and more
    than the mean of the clip.

    Args:
        features: `(frames, dim)`.
    Returns:
        `(frames,)` bool.
    """
    frames = len(features)
    sums = torch.cat([features.new_zeros(1, features.shape[1]), (features - features.mean(0)).cumsum(0)])
    place = torch.arange(frames, device=features.device)
    before = sums[place] - sums[(place - SPAN).clamp_min(0)]
    after = sums[(place + SPAN).clamp_max(frames)] - sums[place]
    change = 1 - nn.functional.cosine_similarity(before, after)
    change[(before == 0).all(1) | (after == 0).all(1)] = 0  # nothing is before the first frame, or nothing changes
    highest = nn.functional.max_pool1d(change[None, None], 2 * NEAREST + 1, stride=1, padding=NEAREST)[0, 0]
    return (change == highest) & (change > change.mean())
