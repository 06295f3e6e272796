"""Training: losses, optimisers, and the compiled step that makes one from a model and both.

    step = tl.compile_step(model, loss="sparse_categorical_crossentropy", optimizer="adam")
    loss = step(x, y)                       # forwards, backwards and update: one compiled call
    loss = step(x, y, sample_weight=w, learning_rate=1e-4)
    step.weights()                          # {"dense/kernel": (in, out), ...}, copies
    step.set_weights({...})
    step.update_model()                     # puts the weights into the model's layers
    compiled = step.compiled()              # what is trained, ready to predict
    step.save("step.safetensors"); step.load("step.safetensors")

x is a tensor, or a tuple (or a dict by name) of them for a model of several inputs; y as the loss
says; any batch size of at least 1. A step that is refused raises before anything is updated. The
same calls give the same bits, on any number of threads.
"""
