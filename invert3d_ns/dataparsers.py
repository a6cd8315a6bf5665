"""Every dataparser that nerfstudio finds here.

Apart from :mod:`invert3d_ns.configs` because nerfstudio discovers dataparsers while it imports its data managers, which
the methods' configurations need.
"""

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from invert3d_ns.scenes.assets import SceneDataParserConfig

scene_dataparser = DataParserSpecification(
    config=SceneDataParserConfig(),
    description="An object: splats (a file or a run), or a folder of posed images, brought into the object frame.",
)
