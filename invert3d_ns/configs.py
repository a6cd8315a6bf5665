"""Every method that ns-train offers, on one screen."""

from invert3d_ns import compat
from invert3d_ns.base import errors

errors.install_excepthook()
compat.apply()

# nerfstudio imports this module while it collects its own methods: the cures above come before anything of it is used.
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig  # noqa: E402
from nerfstudio.engine.optimizers import AdamOptimizerConfig  # noqa: E402
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig  # noqa: E402
from nerfstudio.plugins.types import MethodSpecification  # noqa: E402

from invert3d_ns.methods.invert3d import InversionPipelineConfig  # noqa: E402
from invert3d_ns.runs.progress import ProgressWriterConfig  # noqa: E402
from invert3d_ns.runs.trainer import InversionTrainerConfig  # noqa: E402

_SPLAT_OPTIMIZERS = {
    "means": {
        "optimizer": AdamOptimizerConfig(lr=1.6e-3, eps=1e-15),
        "scheduler": ExponentialDecaySchedulerConfig(lr_final=1.6e-5, max_steps=1000),
    },
    "features_dc": {"optimizer": AdamOptimizerConfig(lr=0.01, eps=1e-15), "scheduler": None},
    "features_rest": {"optimizer": AdamOptimizerConfig(lr=0.01 / 20, eps=1e-15), "scheduler": None},
    "opacities": {"optimizer": AdamOptimizerConfig(lr=0.05, eps=1e-15), "scheduler": None},
    "scales": {"optimizer": AdamOptimizerConfig(lr=0.01, eps=1e-15), "scheduler": None},
    "quats": {"optimizer": AdamOptimizerConfig(lr=0.005, eps=1e-15), "scheduler": None},
    "camera_opt": {"optimizer": AdamOptimizerConfig(lr=1e-4, eps=1e-15), "scheduler": None},
}


def _method(name: str, pipeline: InversionPipelineConfig) -> InversionTrainerConfig:
    return InversionTrainerConfig(
        method_name=name,
        project_name="invert3d",
        machine=MachineConfig(device_type=compat.device_type()),
        steps_per_eval_batch=0,
        steps_per_eval_image=200,
        steps_per_eval_all_images=0,
        pipeline=pipeline,
        optimizers=_SPLAT_OPTIMIZERS,
        logging=LoggingConfig(local_writer=ProgressWriterConfig(), profiler="none"),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="tensorboard",
    )


invert3d = MethodSpecification(
    config=_method("invert3d", InversionPipelineConfig()),
    description="Invert3D: a 3D scene (posed images, or splats in a .ply) becomes words of a multi-view prior, which "
    "--prompt then edits.",
)
invert3d_edit = MethodSpecification(
    config=_method("invert3d-edit", InversionPipelineConfig(splat_steps=0, steps=0)),
    description="Edit a scene that is words already with more words: --data is its run, --prompt says what to change.",
)
