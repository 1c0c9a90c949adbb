"""A diffusion model of your own: any unconditional diffusers U-Net, as a pipeline folder."""

from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger

from lit_hier.callbacks import ActivationSimilarity, SampleGrid
from lit_hier.data import DigitsDataModule
from lit_hier.modules import DDPMSampler
from lit_hier.nn import ImageCNN

if __name__ == "__main__":
    blocks = {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
    }
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **blocks)
    # Train it, or load your weights, here.
    DDPMPipeline(unet, DDPMScheduler(clip_sample=True)).save_pretrained("pipeline")

    # Folders of images: ImageDataModule(held_out=ImageFiles("FOLDER")) in place of the digits.
    data = DigitsDataModule(num_predict=20, eval_batch_size=20)
    network = ImageCNN(channels=1, num_classes=10)
    trainer = Trainer(
        logger=CSVLogger("logs", "diffusion_model"),
        callbacks=[ActivationSimilarity(network), SampleGrid(num_images=4)],
    )
    sampler = DDPMSampler("pipeline", times=[2, 5, 8, 10], num_steps=10, batch_size=20)
    trainer.predict(sampler, data, return_predictions=False)
