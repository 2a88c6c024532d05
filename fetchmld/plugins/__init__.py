"""Plugins: programs beside the scheduler that tasks report to, such as MLflow, and how one is added.

protocol     what a plugin is                          catalog    which there are: entry points `fetchmld.plugins`
mlflow       MLflow's tracking server                  tensorboard    TensorBoard
*_server     what runs inside those sidecars' own environments
secrets      settings that are not to be shown         tokens     what lets one attempt of a task reach one plugin
calls        small requests to a plugin's server
"""
