"""lm-evaluation-harness with our methods as a model type and our tasks as a group.

    python -m lengthwise.measure.engines.lm_eval --model lengthwise \
        --model_args pretrained=demo,method=yarn:factor=8 --tasks lengthwise_ruler

The harness looks for plug-ins nowhere, so this command registers the model type, writes the tasks
where it finds them, and hands over to the harness's own command.
"""
