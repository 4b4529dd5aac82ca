"""Model cards, and publishing on the Hub."""

from hf_components.publishing.cards import error_rates, evaluated_on, render_card
from hf_components.publishing.hub import PublishArguments, PublishModelArguments, PublishVoiceArguments, publish, push
from hf_components.publishing.report import hub_id, write_report
