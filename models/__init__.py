"""The networks, one file for each paper. Imported as ``minidl.models``."""

from minidl.models.alexnet import AlexNet, alexnet
from minidl.models.deconvnet import DeconvNet
from minidl.models.deeplab import DeepLab, DeepLabV2
from minidl.models.densenet import (
    DenseNet,
    densenet121,
    densenet161,
    densenet169,
    densenet201,
    densenet264,
)
from minidl.models.dilatednet import ContextModule, DilatedNet, FrontEnd
from minidl.models.fcdensenet import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103
from minidl.models.fcn import FCN8s, FCN16s, FCN32s, FCNSlides, fcn8s, fcn16s, fcn32s
from minidl.models.googlenet import GoogLeNet, googlenet
from minidl.models.lenet import LeNet5, lenet5
from minidl.models.multiscale import AtrousPyramid, ImagePyramid, Reduced
from minidl.models.refinenet import RefineNet
from minidl.models.resnet import (
    CifarResNet,
    ResNet,
    ResNetBackbone,
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
    resnet152,
)
from minidl.models.segnet import SegNet, SegNetBasic, SegNetCMR
from minidl.models.spp import SpatialPyramidPooling
from minidl.models.unet import UNet, UNetSlides
from minidl.models.vgg import (
    VGG,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from minidl.models.wavenet import SpeechWaveNet, WaveNet

__all__ = [
    "AlexNet",
    "AtrousPyramid",
    "CifarResNet",
    "ContextModule",
    "DeconvNet",
    "DeepLab",
    "DeepLabV2",
    "DenseNet",
    "DilatedNet",
    "FCDenseNet",
    "FCN16s",
    "FCN32s",
    "FCN8s",
    "FCNSlides",
    "FrontEnd",
    "GoogLeNet",
    "ImagePyramid",
    "LeNet5",
    "Reduced",
    "RefineNet",
    "ResNet",
    "ResNetBackbone",
    "SegNet",
    "SegNetBasic",
    "SegNetCMR",
    "SpatialPyramidPooling",
    "SpeechWaveNet",
    "UNet",
    "UNetSlides",
    "VGG",
    "WaveNet",
    "alexnet",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "densenet264",
    "fc_densenet103",
    "fc_densenet56",
    "fc_densenet67",
    "fcn16s",
    "fcn32s",
    "fcn8s",
    "googlenet",
    "lenet5",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet56",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
