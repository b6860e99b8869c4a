"""A bidirectional LSTM and `fit`, as in keras.io/examples/nlp/bidirectional_lstm_imdb, with torch below."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from imdb_reviews import WORDS, load
from keras import layers

train_data, valid_data = load()
rows, labels = zip(*train_data, *valid_data)
x, y = keras.utils.pad_sequences(rows, padding="post"), np.array(labels)
n = len(train_data)

model = keras.Sequential(
    [
        keras.Input((None,), dtype="int32"),
        layers.Embedding(WORDS, 96, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.1)),
        layers.Dropout(0.5),
        layers.Bidirectional(layers.LSTM(96, return_sequences=True)),
        layers.GlobalMaxPooling1D(),
        layers.Dropout(0.5),
        layers.Dense(1),
    ]
)
model.compile(
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    optimizer=keras.optimizers.AdamW(3e-3, weight_decay=0.01),
    metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
)
history = model.fit(x[:n], y[:n], batch_size=32, epochs=1, validation_data=(x[n:], y[n:]))
print(f"validation accuracy {history.history['val_binary_accuracy'][-1]:.4f}")
