"""How each part of the industry is named in a question: its field, place, paper and person."""

from dataclasses import dataclass
from functools import cache

from glossary import Entry
from utils.text import contains_phrase


@dataclass(frozen=True)
class Field:
    """Words of one glossary category; each fits one gap of the phrasings."""

    field: str  # after "in": "drilling"
    place: str  # after "does X mean": "on a drilling rig"
    document: str  # after "in": "a drilling report"
    person: str  # "a drilling engineer"


GENERIC = Field(
    "the petroleum industry",
    "on an oil and gas project",
    "an oil and gas report",
    "a petroleum engineer",
)

FIELDS = {
    "artificial_lift": Field(
        "oil well production",
        "on an oil production site",
        "a well workover proposal",
        "a production engineer in an oil company",
    ),
    "carbon": Field(
        "oil and gas carbon management",
        "on an oil company's CO2 project",
        "an oil company's emissions report",
        "an oil company's climate adviser",
    ),
    "cementing_casing": Field(
        "oil well construction",
        "on a drilling rig running pipe",
        "an oil well construction programme",
        "a well engineer in an oil company",
    ),
    "commercial": Field(
        "oil and gas contracts",
        "in an oil and gas contract",
        "an agreement between oil companies",
        "an oil and gas lawyer",
    ),
    "completions": Field(
        "oil well completions",
        "in an oil well completion",
        "a drawing of an oil well completion",
        "a completion engineer in an oil company",
    ),
    "data_digital": Field(
        "oilfield data management",
        "in oilfield data transfer",
        "a data specification of an oil company",
        "a petroleum data manager",
    ),
    "directional": Field(
        "directional drilling",
        "on a directional drilling job",
        "a well trajectory plan",
        "a directional drilling engineer",
    ),
    "drilling": Field(
        "oil well drilling",
        "on a drilling rig",
        "a morning report from a drilling rig",
        "a drilling engineer",
    ),
    "drilling_fluids": Field(
        "drilling fluids",
        "in a drilling rig's mud lab",
        "a mud engineer's report",
        "a mud engineer on a drilling rig",
    ),
    "economics": Field(
        "oil and gas economics",
        "in the economics of an oil project",
        "an oil company's investment case",
        "a petroleum economist",
    ),
    "eor": Field(
        "enhanced oil recovery",
        "on an oil recovery pilot",
        "an oil recovery study",
        "a reservoir engineer",
    ),
    "facilities_process": Field(
        "oil and gas processing",
        "in an oil and gas processing plant",
        "the design papers of an oil and gas plant",
        "a facilities engineer in an oil company",
    ),
    "formation_evaluation": Field(
        "well logging",
        "on a well log",
        "a well logging report",
        "a petrophysicist",
    ),
    "gas_lng": Field(
        "the natural gas business",
        "in a natural gas plant",
        "a gas company's report",
        "a gas engineer",
    ),
    "geology": Field(
        "petroleum geology",
        "on a petroleum geologist's map",
        "a petroleum geology report",
        "a petroleum geologist",
    ),
    "geophysics": Field(
        "seismic exploration for oil and gas",
        "on an oil and gas seismic survey",
        "a seismic survey report",
        "an exploration geophysicist",
    ),
    "hse": Field(
        "oil and gas safety",
        "on an offshore platform",
        "the safety manual of an oil company",
        "a safety adviser in an oil company",
    ),
    "integrity_corrosion": Field(
        "oil and gas asset integrity",
        "on an oil and gas inspection job",
        "an oil and gas inspection report",
        "an oil company's inspection engineer",
    ),
    "markets": Field(
        "oil and gas trading",
        "on an oil and gas trading desk",
        "an oil and gas price report",
        "an oil and gas trader",
    ),
    "offshore_marine": Field(
        "offshore oil and gas operations",
        "on an offshore oil and gas vessel",
        "a marine report from an oil field",
        "the mate of an offshore vessel",
    ),
    "organizations": Field(
        "the oil and gas industry",
        "among oil and gas people",
        "an oil and gas magazine",
        "an oil and gas professional",
    ),
    "pipelines": Field(
        "oil and gas pipelines",
        "on an oil and gas pipeline",
        "a pipeline operator's report",
        "a pipeline engineer",
    ),
    "production": Field(
        "oil and gas production",
        "on an oil and gas production site",
        "an oil and gas production report",
        "a production engineer in an oil company",
    ),
    "projects": Field(
        "oil and gas projects",
        "on an oil and gas project",
        "the schedule of an oil and gas project",
        "a project engineer in an oil company",
    ),
    "refining": Field(
        "oil refining",
        "in an oil refinery",
        "an oil refinery's report",
        "a refinery engineer",
    ),
    "regulatory": Field(
        "oil and gas regulation",
        "in oil and gas regulation",
        "a filing to an oil and gas regulator",
        "an oil company's regulatory adviser",
    ),
    "reservoir": Field(
        "reservoir engineering",
        "in a reservoir study",
        "a reservoir report",
        "a reservoir engineer",
    ),
    "shipping": Field(
        "oil and gas shipping",
        "on an oil tanker",
        "an oil tanker's voyage papers",
        "an oil shipping manager",
    ),
    "stimulation": Field(
        "oil well stimulation",
        "on a well stimulation job",
        "a well stimulation report",
        "a stimulation engineer",
    ),
    "subsea": Field(
        "subsea oil and gas engineering",
        "on a subsea oil and gas project",
        "a subsea layout drawing",
        "a subsea engineer",
    ),
    "units": Field(
        "oilfield units",
        "in oilfield figures",
        "a table of oilfield figures",
        "a petroleum engineer",
    ),
    "well_abandonment": Field(
        "the retirement of old oil wells",
        "in an old oil well's file",
        "the end-of-life plan of an oil well",
        "a well engineer in an oil company",
    ),
    "well_control": Field(
        "well control",
        "in a well control drill",
        "a well control manual",
        "a drilling supervisor on a rig",
    ),
    "well_intervention": Field(
        "oil well intervention",
        "on an oil well intervention job",
        "an oil well intervention report",
        "a well engineer in an oil company",
    ),
    "well_testing": Field(
        "oil well testing",
        "in an oil well test",
        "an oil well test report",
        "a well test engineer",
    ),
}


@cache
def find_field(entry: Entry, category: str) -> Field:
    """The category's words, or general ones where they would give an answer away."""
    field = FIELDS.get(category, GENERIC)
    words = " / ".join((field.field, field.place, field.document, field.person))
    names = [name for sense in entry.senses for name in sense.names]
    return GENERIC if any(contains_phrase(name, words) for name in names) else field
