"""Words that inventions are made of: modifiers and head nouns of the trade, by initial."""


def group_by_initial(words: str) -> dict[str, list[str]]:
    """The words of a text, sorted, under their first letters."""
    groups: dict[str, list[str]] = {}
    for word in sorted(set(words.split())):
        groups.setdefault(word[0], []).append(word)
    return groups


MODIFIERS = group_by_initial("""
Acid Ambient Anchor Annular Aquifer Asphaltene Axial Backflow Baffle Ballast Barge Bit Blend
Bonnet Booster Bottom Brine Buoy Burner Cargo Carrier Casing Cavity Cement Centrifuge Choke Clamp
Clay Coil Condensate Conductor Core Crane Crown Crude Debris Deck Derrick Desalter Diluent
Discharge Diverter Downhole Drain Drift Dual Effluent Elevator Emulsion Entry Erosion Exchanger
Export Feed Filter Flange Flare Flotation Flowline Fluid Foam Fracture Fuel Gas Gauge Girth Glycol
Gravel Grout Hanger Header Heater Hoist Hook Hose Hull Hydrate Impeller Inert Inlet Injection
Intake Interface Isolation Jacket Jar Jet Joint Jumper Junction Kelly Kerogen Kerosene Kick
Knockout Lateral Leak Level Lift Liner Load Lubricator Mandrel Manifold Marine Matrix Membrane
Methanol Mooring Mud Naphtha Net Nipple Nitrogen Nodal Nozzle Offloading Offset Orifice Outlet
Overhead Overpull Packer Paraffin Perforation Pipe Platform Pore Produced Proppant Quarterly
Quartz Quench Reamer Reboiler Regenerator Relief Reservoir Residue Rig Riser Rotor Sand Scale
Separator Shale Skid Slurry Solids Spool Stabiliser Stripper Strut Subsea Suction Swivel Tank
Template Thruster Tieback Topside Torque Tray Trunkline Tubing Turret Umbilical Underream
Unloading Uplift Upper Utility Valve Vapour Vent Vessel Vibration Viscosity Void Washout Water Wax
Weld Well Wellhead Winch Wireline Yard Zonal Zone
""")

HEADS = group_by_initial("""
Alarm Allowance Analysis Angle Array Assembly Audit Balance Barrier Basket Block Boundary Bypass
Capacity Check Circuit Class Coefficient Control Cover Curve Data Demand Depth Deviation Device
Drawing Duty Efficiency Element Envelope Estimate Evaluation Event Factor Failure Forecast
Fraction Frame Function Gradient Grade Grid Group Guide Handover Hazard Head Height Housing Index
Indicator Insert Inspection Interval Inventory Job Journal Junction Key Kit Length Limit List Log
Loss Margin Map Mode Model Module Monitor Mount Network Node Norm Notice Number Operation Order
Outage Output Override Package Plan Point Position Procedure Profile Program Quality Quota Rate
Rating Ratio Record Report Reserve Response Review Ring Schedule Sensor Signal Sleeve Station
Strength Survey Switch System Temperature Test Threshold Time Tolerance Tool Transmitter Trap Unit
Update Usage Value Variance Velocity Volume Watch Weight Width Window Yield Zone
""")
