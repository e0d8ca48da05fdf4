//! What is where: the state behind the owner, and its decisions.

use std::sync::{Arc, Weak};

use super::{Full, Held, Network, Plan, Store, Use};

pub(super) struct Books<S: Store> {
    pub(super) store: S,
    /// Networks that have been used, the last one at the end.
    guests: Vec<Guest<S>>,
    /// Bytes of all parts that are there.
    held: u64,
    /// What the device turned out to have, where that is less than its budget.
    found: Option<u64>,
}

struct Guest<S: Store> {
    network: Weak<Network<S::Source>>,
    plan: Plan,
    places: Vec<Place<S::Room>>,
    visits: usize,
    /// What the work of the visits takes, and everything else that is no part.
    work: u64,
}

/// Where one part is, if it is there.
struct Place<R> {
    room: Option<R>,
    bytes: u64,
    leases: usize,
}

impl<R> Place<R> {
    fn is_idle(&self) -> bool {
        self.room.is_some() && self.leases == 0
    }
}

impl<S: Store> Guest<S> {
    fn is(&self, network: &Arc<Network<S::Source>>) -> bool {
        std::ptr::eq(self.network.as_ptr(), Arc::as_ptr(network))
    }

    fn here(&self) -> u64 {
        self.places.iter().filter(|place| place.room.is_some()).map(|place| place.bytes).sum()
    }

    fn leased(&self) -> u64 {
        self.places.iter().filter(|place| place.leases > 0).map(|place| place.bytes).sum()
    }

    /// The part that makes room, seen from a part that is in use: of those that are not, the one that is needed last.
    /// Networks that are not in use begin at their first part again.
    fn dispensable(&self, from: usize) -> Option<usize> {
        let count = self.places.len();
        (0..count).map(|back| (from + count - back) % count).find(|part| self.places[*part].is_idle())
    }
}

impl<S: Store> Books<S> {
    pub(super) fn new(store: S) -> Self {
        Self { store, guests: Vec::new(), held: 0, found: None }
    }

    /// Forgets networks that exist no more.
    fn tidy(&mut self) {
        for at in (0..self.guests.len()).rev() {
            if self.guests[at].network.strong_count() == 0 {
                self.dismiss(at);
            }
        }
    }

    pub(super) fn forget(&mut self, network: &Arc<Network<S::Source>>) {
        let unused = |guest: &Guest<S>| guest.is(network) && guest.visits == 0;
        if let Some(at) = self.guests.iter().position(unused) {
            self.dismiss(at);
        }
    }

    fn dismiss(&mut self, at: usize) {
        for part in 0..self.guests[at].places.len() {
            self.send_away(at, part);
        }
        self.guests.remove(at);
        if self.guests.is_empty() {
            self.found = None;
        }
    }

    fn budget(&self) -> u64 {
        let budget = self.store.budget();
        self.found.map_or(budget, |found| found.min(budget))
    }

    pub(super) fn visit(&mut self, network: &Arc<Network<S::Source>>, work: u64) -> Result<(), Full> {
        self.tidy();
        let known = self.guests.iter().position(|guest| guest.is(network)).map(|at| self.guests.remove(at));
        let sizes: Vec<u64> = network.parts.iter().map(|part| part.bytes).collect();
        let work = work + self.store.overhead().saturating_sub(self.work());
        let taken = work + self.work() + self.guests.iter().map(Guest::leased).sum::<u64>();
        let passes = network.used == Use::Seldom && self.store.keeps_close();
        let most = if passes { Plan::least(&sizes, network.kept) } else { u64::MAX };
        let mut room = self.budget().saturating_sub(taken).min(most);
        let mut plan = Plan::new(&sizes, network.kept, room);
        if plan.is_none() && self.found.take().is_some() {
            room = self.budget().saturating_sub(taken).min(most);
            plan = Plan::new(&sizes, network.kept, room);
        }
        let Some(plan) = plan else {
            self.guests.extend(known);
            let (always, others) = sizes.split_at(network.kept);
            return Err(Full {
                what: network.name.clone(),
                bytes: always.iter().sum::<u64>() + others.iter().max().copied().unwrap_or(0),
                budget: self.budget(),
                weights: self.guests.iter().map(Guest::leased).sum(),
                work: work + self.work(),
            });
        };
        // A plan that is about as good as the one before moves nothing.
        let before = known.as_ref().map(|guest| &guest.plan);
        let plan = if let Some(before) = before.filter(|before| before.is_about(&plan, &sizes, room)) {
            before.clone()
        } else {
            if room < most {
                tell(network, &plan, &sizes);
            }
            plan
        };
        let guest = match known {
            Some(guest) => Guest { plan, visits: guest.visits + 1, work: guest.work.max(work), ..guest },
            None => Guest {
                network: Arc::downgrade(network),
                plan,
                places: sizes.into_iter().map(|bytes| Place { room: None, bytes, leases: 0 }).collect(),
                visits: 1,
                work,
            },
        };
        self.guests.push(guest);
        let at = self.guests.len() - 1;
        self.keep_to_plan(at, network.kept);
        // The work may begin before the first part is asked for.
        let last = network.parts.len().saturating_sub(1);
        while self.held + self.work() > self.budget() && self.make_way(at, last) {}
        Ok(())
    }

    pub(super) fn leave(&mut self, network: &Arc<Network<S::Source>>) {
        if let Some(guest) = self.guests.iter_mut().find(|guest| guest.is(network)) {
            guest.visits -= 1;
            if guest.visits == 0 {
                guest.work = 0;
            }
        }
    }

    /// What all visits need besides parts.
    fn work(&self) -> u64 {
        self.guests.iter().map(|guest| guest.work).sum()
    }

    /// Sends parts away that are here though the plan does not let them stay, but for those that are used first.
    fn keep_to_plan(&mut self, at: usize, kept: usize) {
        let soon = kept..=kept + self.guests[at].plan.ahead;
        for part in (0..self.guests[at].places.len()).filter(|part| !soon.contains(part)) {
            if self.guests[at].places[part].is_idle() && !self.guests[at].plan.stays(part) {
                self.send_away(at, part);
            }
        }
    }

    fn send_away(&mut self, at: usize, part: usize) {
        let place = &mut self.guests[at].places[part];
        if let Some(room) = place.room.take() {
            self.held -= place.bytes;
            self.store.free(room);
        }
    }

    pub(super) fn lease(
        &mut self,
        network: &Arc<Network<S::Source>>,
        part: usize,
    ) -> Result<S::Room, S::Error> {
        let Some(at) = self.guests.iter().position(|guest| guest.is(network)) else {
            unreachable!("a visit keeps its network known")
        };
        // What is used now is not what makes room.
        self.guests[at].places[part].leases += 1;
        let taken = self.take(at, network, part);
        match taken {
            Ok(_) => self.look_ahead(at, network, part),
            Err(_) => self.guests[at].places[part].leases -= 1,
        }
        taken
    }

    /// The room of a part that is there when the work that comes next begins.
    fn take(&mut self, at: usize, network: &Network<S::Source>, part: usize) -> Result<S::Room, S::Error> {
        self.settle()?;
        let room = self.fetch(at, network, part)?;
        if let Err(error) = self.store.wait(&room) {
            self.send_away(at, part);
            return Err(error);
        }
        Ok(room)
    }

    /// The room of a part, which is brought there if it is not.
    fn fetch(&mut self, at: usize, network: &Network<S::Source>, part: usize) -> Result<S::Room, S::Error> {
        if let Some(room) = &self.guests[at].places[part].room {
            return Ok(room.clone());
        }
        let wanted = &network.parts[part];
        loop {
            if let Some(room) = self.bring(at, network, part)? {
                return Ok(room);
            }
            if !self.make_way(at, part) {
                return Err(self.full(format!("{} of {}", wanted.name, network.name), wanted.bytes).into());
            }
        }
    }

    /// Brings a part if there is room as it is.
    fn bring(
        &mut self,
        at: usize,
        network: &Network<S::Source>,
        part: usize,
    ) -> Result<Option<S::Room>, S::Error> {
        let bytes = network.parts[part].bytes;
        if self.held + bytes + self.work() > self.budget() {
            return Ok(None);
        }
        let Some(room) = self.store.allocate(bytes)? else { return Ok(None) };
        if let Err(error) = self.store.bring(&network.parts[part].source, &room) {
            self.store.free(room);
            return Err(error);
        }
        self.held += bytes;
        self.guests[at].places[part].room = Some(room.clone());
        Ok(Some(room))
    }

    /// Lets the parts come that are used next. It is no failure if they cannot: whoever uses them is told.
    fn look_ahead(&mut self, at: usize, network: &Network<S::Source>, part: usize) {
        let circle = network.parts.len() - network.kept;
        if part < network.kept || circle == 0 {
            return;
        }
        for step in 1..=self.guests[at].plan.ahead {
            let next = network.kept + (part - network.kept + step) % circle;
            while self.guests[at].places[next].room.is_none()
                && matches!(self.bring(at, network, next), Ok(None))
                && self.dismiss_idle_network()
            {}
        }
    }

    pub(super) fn end_lease(&mut self, network: &Weak<Network<S::Source>>, part: usize) {
        let Some(at) = self.guests.iter().position(|guest| guest.network.ptr_eq(network)) else { return };
        self.guests[at].places[part].leases -= 1;
        if self.guests[at].places[part].is_idle() && !self.guests[at].plan.stays(part) {
            self.send_away(at, part);
        }
    }

    /// Sends one part away; whether there was one. `at` is the network that needs the room, for `part`.
    fn make_way(&mut self, at: usize, part: usize) -> bool {
        if self.dismiss_idle_network() {
            return true;
        }
        let Some(gone) = self.guests[at].dispensable(part) else { return self.dismiss_other(at) };
        let guest = &mut self.guests[at];
        guest.plan.give_up(gone);
        // Even the part that was to come next is in the way.
        if guest.places.iter().enumerate().all(|(other, place)| other == gone || !place.is_idle()) {
            guest.plan.ahead = 0;
        }
        self.send_away(at, gone);
        true
    }

    /// Sends away a part of the network that has not been used for longest, among those not in use.
    fn dismiss_idle_network(&mut self) -> bool {
        let idle = |guest: &Guest<S>| guest.visits == 0 && guest.places.iter().any(Place::is_idle);
        let Some(at) = self.guests.iter().position(idle) else { return false };
        let last = self.guests[at].places.len() - 1;
        self.guests[at].dispensable(last).is_some_and(|part| {
            self.send_away(at, part);
            true
        })
    }

    /// Sends away a part of another network at work that is not leased just now.
    fn dismiss_other(&mut self, at: usize) -> bool {
        for other in (0..self.guests.len()).filter(|other| *other != at) {
            let last = self.guests[other].places.len() - 1;
            if let Some(part) = self.guests[other].dispensable(last) {
                self.guests[other].plan.give_up(part);
                self.send_away(other, part);
                return true;
            }
        }
        false
    }

    /// Gives back what is taken beyond the budget, by whatever.
    fn settle(&mut self) -> Result<(), Full> {
        loop {
            let excess = self.store.excess(self.held);
            if excess == 0 {
                return Ok(());
            }
            self.give_back(excess, "the work")?;
        }
    }

    /// Sends away at least so many bytes of parts, for good.
    fn give_back(&mut self, bytes: u64, what: &str) -> Result<(), Full> {
        let before = self.held;
        while before - self.held < bytes.max(1) {
            // The network used last is the one at work.
            let Some(at) = self.guests.len().checked_sub(1) else { break };
            let in_use = self.guests[at].places.iter().rposition(|place| place.leases > 0).unwrap_or(0);
            if !self.make_way(at, in_use) {
                break;
            }
        }
        if before == self.held { Err(self.full(what.to_owned(), bytes)) } else { Ok(()) }
    }

    /// Sends parts away for work that the device refused memory to, and believes no more that it has as much.
    pub(super) fn make_room_for_work(&mut self, bytes: u64) -> Result<(), Full> {
        self.give_back(bytes, "the work (refused by the device itself)")?;
        // It is not filled again.
        self.found = Some(self.held + self.work());
        Ok(())
    }

    /// Believes again what the store says.
    pub(super) fn trust(&mut self) {
        self.found = None;
    }

    fn full(&self, what: String, bytes: u64) -> Full {
        Full { what, bytes, budget: self.budget(), weights: self.held, work: self.work() }
    }

    pub(super) fn held(&self) -> Vec<Held> {
        let known = self.guests.iter().filter_map(|guest| Some((guest, guest.network.upgrade()?)));
        known
            .map(|(guest, network)| Held {
                network: network.name.clone(),
                here: guest.here(),
                whole: network.bytes(),
                staying: guest.plan.staying(),
                parts: network.parts.len(),
            })
            .collect()
    }

    pub(super) fn clear(&mut self) {
        self.tidy();
        while self.dismiss_idle_network() {}
        self.found = None;
    }
}

/// Tells whoever runs this that not everything fits.
fn tell<P>(network: &Network<P>, plan: &Plan, sizes: &[u64]) {
    if plan.staying() < sizes.len() {
        tracing::info!(
            "{} does not fit into memory as a whole: {} of its {} parts stay, {:.1} of {:.1} GB; the others come for each use",
            network.name,
            plan.staying(),
            sizes.len(),
            plan.staying_bytes(sizes) as f64 / 1e9,
            network.bytes() as f64 / 1e9,
        );
    }
}
