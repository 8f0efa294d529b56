"""The science of the book: exact solutions, certified estimators, one trainer for sweeps of variational autoencoders.

It knows no notebook, no record and no claim: tensors, arrays and frames in and out. Start in `models` (what a VAE is)
or `train` (how a sweep is trained); `exact` judges both, `inference` and `diagnostics` say what a trained model does.
"""
