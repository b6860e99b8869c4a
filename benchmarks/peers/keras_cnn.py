"""A Sequential model and `fit`, as in keras.io/examples/vision/mnist_convnet, with torch below."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import layers
from torchvision import datasets

images = datasets.FashionMNIST(os.environ["ETUDE_DATA"], train=True)
x_train = (images.data.numpy()[..., None].astype("float32") / 255 - 0.286) / 0.353
y_train = images.targets.numpy()

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, padding="same", use_bias=False),
        layers.MaxPooling2D(),
        layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        layers.ReLU(),
        layers.Conv2D(64, 3, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        layers.ReLU(),
        layers.Conv2D(64, 3, padding="same", use_bias=False),
        layers.MaxPooling2D(),
        layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        layers.ReLU(),
        layers.Conv2D(128, 3, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        layers.ReLU(),
        layers.Conv2D(128, 3, padding="same", use_bias=False),
        layers.MaxPooling2D(),
        layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(10),
    ]
)
model.compile(
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.01),
    metrics=["accuracy"],
)
history = model.fit(x_train, y_train, batch_size=128, epochs=1, validation_split=1 / 12)
print(f"validation accuracy {history.history['val_accuracy'][-1]:.4f}")
