"""The library of the workbook: notebooks call and look, these modules compute. README.md has the map."""

import warnings

# timm 1.0 and fastai 2.8 still use torch.jit; torch 2.14 warns the reader of a notebook, who can't help it.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
