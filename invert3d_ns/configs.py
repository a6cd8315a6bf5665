"""Every method that ns-train offers, on one screen."""

from invert3d_ns import compat
from invert3d_ns.base import errors

errors.install_excepthook()
compat.install_remedies()

# nerfstudio imports this module while it collects its own methods: the cures above come before anything of it is used.
from nerfstudio.plugins.types import MethodSpecification  # noqa: E402

from invert3d_ns.methods.invert3d import InversionPipelineConfig  # noqa: E402
from invert3d_ns.runs.trainer import PhasedTrainerConfig  # noqa: E402

invert3d = MethodSpecification(
    config=PhasedTrainerConfig(method_name="invert3d", pipeline=InversionPipelineConfig()),
    description="Invert3D: a 3D scene (posed images, or splats in a .ply) becomes words of a multi-view prior, which "
    "--prompt then edits.",
)
invert3d_edit = MethodSpecification(
    config=PhasedTrainerConfig(method_name="invert3d-edit", pipeline=InversionPipelineConfig(splat_steps=0, steps=0)),
    description="Edit a scene that is words already with more words: --data is its run, --prompt says what to change.",
)
