//! Plays what networks would do to the owner of memory, on a simulated device.

use std::sync::Arc;

use super::machine::Machine;
use crate::device::residency::{Count, Full, Held, Lease, Network, Residency, Simulated};
use crate::model::estimate::{Estimate, Kind, Work};
use crate::weights::Parts;

/// Uses of one network for one thing, one after the other.
pub(super) struct Stage {
    pub(super) kind: Kind,
    pub(super) network: String,
    /// How many there are.
    pub(super) uses: usize,
    pub(super) work: Work,
    /// When it begins, how long it takes, what of that is waiting for weights, and how long it takes at least; seconds.
    pub(super) begin: f64,
    pub(super) seconds: f64,
    pub(super) waited: f64,
    pub(super) floor: f64,
    /// Bytes of weights that are brought.
    pub(super) moved: u64,
    /// Bytes that the work takes besides the weights.
    pub(super) working_bytes: u64,
    /// What is on the device in the end.
    pub(super) held: Vec<Held>,
}

/// All of it.
pub(super) struct Played {
    pub(super) stages: Vec<Stage>,
    pub(super) count: Count,
    /// The most bytes that weights and work took together.
    pub(super) peak: u64,
}

/// The networks of the ledger as the simulated device knows them: with sizes, without sources.
#[derive(Default)]
struct Known(Vec<(Arc<Parts>, Arc<Network<()>>)>);

impl Known {
    fn of(&mut self, real: &Arc<Parts>) -> Arc<Network<()>> {
        if let Some((_, known)) = self.0.iter().find(|(of, _)| Arc::ptr_eq(of, real)) {
            return known.clone();
        }
        let known = Arc::new(real.without_sources());
        self.0.push((real.clone(), known.clone()));
        known
    }
}

pub(super) fn play(entries: &[Estimate], machine: &Machine) -> Result<Played, Full> {
    let device = Residency::new(
        Simulated::new(machine.memory, machine.overhead, machine.way).keeping_close(machine.keeps_close),
    );
    let mut known = Known::default();
    let mut played = Played { stages: Vec::new(), count: Count::default(), peak: 0 };
    for entry in entries {
        let network = known.of(&entry.network);
        let before = device.with_store(|store| store.count());
        let peak = use_network(&device, &network, entry, machine)?;
        played.peak = played.peak.max(peak);
        let count = device.with_store(|store| store.count());
        let working_bytes = machine.working_bytes(entry.working_bytes);
        let stage = Stage {
            kind: entry.kind,
            network: network.name.clone(),
            uses: 1,
            work: entry.work(),
            begin: before.seconds,
            seconds: count.seconds - before.seconds,
            waited: count.waited - before.waited,
            floor: machine.floor(&entry.work()),
            moved: count.moved - before.moved,
            working_bytes,
            held: device.held(),
        };
        played.count = count;
        match played.stages.last_mut() {
            Some(last) if last.kind == stage.kind && last.network == stage.network => last.add(stage),
            _ => played.stages.push(stage),
        }
    }
    Ok(played)
}

impl Stage {
    fn add(&mut self, next: Self) {
        self.uses += next.uses;
        self.work += next.work;
        self.seconds += next.seconds;
        self.waited += next.waited;
        self.floor += next.floor;
        self.moved += next.moved;
        self.working_bytes = self.working_bytes.max(next.working_bytes);
        self.held = next.held;
    }
}

/// One use of a network: its parts in order, each leased for its work. Gives the most bytes that were taken.
fn use_network(
    device: &Residency<Simulated>,
    network: &Arc<Network<()>>,
    entry: &Estimate,
    machine: &Machine,
) -> Result<u64, Full> {
    let work_bytes = machine.overhead + machine.working_bytes(entry.working_bytes);
    let mut peak = 0;
    let visit = device.visit(network, machine.working_bytes(entry.working_bytes))?;
    let _kept = (0..network.kept).map(|part| visit.part(part)).collect::<Result<Vec<Lease<'_, _>>, _>>()?;
    for (part, work) in &entry.parts {
        let _lease = (*part >= network.kept).then(|| visit.part(*part)).transpose()?;
        let count = device.with_store(|store| {
            store.work(machine.seconds(work));
            store.count()
        });
        peak = peak.max(count.held + work_bytes);
    }
    Ok(peak)
}
