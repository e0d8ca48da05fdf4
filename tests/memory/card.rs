//! The published files on a card whose memory, launches and copies are acted out: the code that a real card runs, beside
//! the simulated device that plans are made on.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd::device::cuda::launch::{Address, Launch};
use comfyd::device::cuda::machine::{Buffer, Machine, Mark, Product, Way};
use comfyd::device::cuda::store::{Cargo, Limits, Write};
use comfyd::device::cuda::{self, Fault};
use comfyd::device::residency::{Network, Part, Use};
use comfyd::model::card::{Card, Parts};
use comfyd::model::diffusion::{self, Options};
use comfyd::model::estimate::Estimate;
use comfyd::model::layouts::PUBLISHED;
use comfyd::model::{Compute, Cond, Error, Result};
use comfyd::stop::Stop;
use comfyd::weights::File;

use crate::published::{self, Job, OVERHEAD, SPEED, WAY, near, working_bytes};
use crate::streams::{Count, Streams};

/// A card that only keeps books.
struct Books(Streams);

impl Machine for Books {
    fn upload(&mut self, bytes: &[u8]) -> cuda::Result<Buffer> {
        self.blank(bytes.len())
    }

    fn blank(&mut self, bytes: usize) -> cuda::Result<Buffer> {
        self.0.ask(bytes)?;
        Ok(Buffer { at: self.0.take(bytes, None), bytes })
    }

    fn download(&mut self, buffer: Buffer) -> cuda::Result<Vec<u8>> {
        self.0.touch(buffer.at).map(|()| vec![0; buffer.bytes])
    }

    fn launch(&mut self, _: &Launch) -> cuda::Result {
        self.0.launch()
    }

    /// Every use of memory here.
    fn multiply(&mut self, product: &Product) -> cuda::Result {
        self.0.launch()?;
        [product.x, product.w, product.out].into_iter().try_for_each(|at| self.0.touch(at))
    }

    fn release(&mut self, buffer: Buffer) {
        self.0.release(buffer.at).unwrap();
    }

    fn way(&mut self) -> cuda::Result<Box<dyn Way>> {
        Ok(self.0.way(|_, _| ()))
    }

    fn mark(&mut self) -> cuda::Result<Mark> {
        Ok(self.0.mark())
    }

    fn wait(&mut self, mark: &Mark) -> cuda::Result {
        self.0.wait(mark)
    }

    fn clear(&mut self) -> cuda::Result {
        Ok(())
    }
}

/// So many zeros.
struct Zeros(u64);

impl Cargo for Zeros {
    fn load(&self, write: &mut Write<'_>) -> cuda::Result {
        static PAGE: [u8; 1 << 24] = [0; 1 << 24];
        let mut left = self.0 as usize;
        while left > 0 {
            let now = left.min(PAGE.len());
            write(&PAGE[..now])?;
            left -= now;
        }
        Ok(())
    }
}

fn with_sources(network: &Network<()>) -> Arc<Parts> {
    let part = |part: &Part<()>| {
        let source: Arc<dyn Cargo> = Arc::new(Zeros(part.bytes));
        Part { name: part.name.clone(), bytes: part.bytes, source }
    };
    let parts = network.parts.iter().map(part).collect();
    Arc::new(Network { name: network.name.clone(), parts, kept: network.kept, used: network.used })
}

/// A card, and the networks of a job on it.
struct Bench {
    card: Card,
    streams: Streams,
    entries: Vec<(Arc<Parts>, Estimate)>,
}

impl Bench {
    /// A card that has `memory`, of which it says it has `told`.
    fn new(job: &Job, told: u64, memory: u64) -> Self {
        let streams = Streams::new(memory - OVERHEAD, WAY);
        let card = Card::new(Books(streams.clone()), Limits { budget: told, overhead: OVERHEAD });
        let mut entries: Vec<(Arc<Parts>, Estimate)> = Vec::new();
        for (network, estimate) in &job.entries {
            let known = entries.iter().find(|(_, other)| Arc::ptr_eq(&other.network, &estimate.network));
            let parts = known.map_or_else(|| with_sources(network), |(parts, _)| parts.clone());
            entries.push((parts, estimate.clone()));
        }
        Self { card, streams, entries }
    }

    /// What a network does on a card: its work in memory that is taken and given back, its parts in turn.
    fn use_once(&self, index: usize) -> Result<()> {
        let (network, estimate) = &self.entries[index];
        let work = working_bytes(estimate);
        let sitting = self.card.sit(network, work)?;
        sitting.retry(|| {
            let mut desk = sitting.desk();
            let at = desk.room(work as usize)?.at;
            let _kept = (0..network.kept).map(|part| sitting.part(part)).collect::<Result<Vec<_>>>()?;
            for (part, work) in &estimate.parts {
                let lease = sitting.part(*part)?;
                desk.machine().multiply(&product(at, lease.room().at()))?;
                self.streams.work(work.operations() / SPEED);
            }
            Ok(())
        })
    }

    /// The whole edit, of so many steps.
    fn run(&self, steps: usize) -> Result<()> {
        let times = |index| if index == 3 { steps } else { 1 };
        (0..self.entries.len())
            .flat_map(|index| std::iter::repeat_n(index, times(index)))
            .try_for_each(|index| self.use_once(index))
    }

    fn count(&self) -> Count {
        self.streams.count()
    }
}

fn product(x: Address, w: Address) -> Product {
    let numbers = cuda::machine::Numbers::Bf16;
    Product { numbers, rows: 1, inputs: 1, outputs: 1, x, w, out: x }
}

#[test]
fn a_card_does_what_the_plan_says() {
    let job = Job::new();
    for gigabytes in [24, 16, 12, 8] {
        let budget = gigabytes << 30;
        let (planned, bench) = (published::card(budget), Bench::new(&job, budget, budget));
        let mut before = (published::count(&planned), bench.count());
        for round in 0..3 {
            job.run(&planned, 2).unwrap();
            bench.run(2).unwrap();
            let after = (published::count(&planned), bench.count());
            let plan = (after.0.moved - before.0.moved, after.0.seconds - before.0.seconds);
            let card = (after.1.copied - before.1.copied, after.1.seconds - before.1.seconds);
            assert_eq!(card.0, plan.0, "{gigabytes} GiB, round {round}");
            assert!(
                near(card.1, plan.1, 0.005),
                "{gigabytes} GiB, round {round}: {card:?}, planned {plan:?}"
            );
            before = after;
        }
        let count = bench.count();
        assert!(count.peak + OVERHEAD <= budget && count.refused == 0, "{gigabytes} GiB: {count:?}");
        println!(
            "{gigabytes:>2} GiB: {:.2} GB at most, {:.1} GB copied, {:.2} s of which {:.2} waiting; planned {:.2} s",
            count.peak as f64 / 1e9,
            count.copied as f64 / 1e9,
            count.seconds,
            count.waited,
            before.0.seconds,
        );
    }
}

/// The first step of the published network for one prompt with one reference, as the card is told of it.
#[test]
fn a_step_is_some_thousand_launches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(PUBLISHED[0].name);
    PUBLISHED[0].layout().unwrap().write_empty(&path).unwrap();
    let latent = Tensor::zeros((1, 16, 1, 128, 128), DType::F32, &Device::Cpu).unwrap();
    let hidden = Tensor::zeros((1, 300, 3584), DType::F32, &Device::Cpu).unwrap();
    let cond = Cond { references: vec![latent.clone()], ..Cond::new(hidden) };
    let launches = [false, true].map(|eight_bits_on_card| {
        let streams = Streams::new(24 << 30, WAY);
        let card = Card::new(Books(streams.clone()), Limits { budget: 24 << 30, overhead: 0 });
        let (compute, card) = (Compute::Bf16, Some(card));
        let options = Options { compute, card, eight_bits_on_card, ..Options::default() };
        let network = diffusion::load(File::open(&path).unwrap(), options).unwrap();
        network.forward(&latent, 0.5, &[&cond], &Stop::new()).unwrap();
        streams.count().launched
    });
    // The vectors of a block, in each of its streams 6 kernels around 6 products, which are three launches each, and the
    // attention.
    let block = 2 * 3 + 2 * (6 + 6 * 3) + 1;
    println!("launches of a step for one prompt: {} in BF16, {} in INT8", launches[0], launches[1]);
    assert_eq!(launches[0], 60 * block);
    // Three for each large matrix, once; and rows go through whole numbers some at a time.
    assert!(launches[1] > 60 * (block + 3 * 12 + 2 * 6 * 2) && launches[1] < 20_000, "{}", launches[1]);
}

#[test]
fn whichever_piece_of_memory_is_refused_the_job_ends_well_or_says_why() {
    let job = Job::new();
    for gigabytes in [24, 8] {
        let budget = gigabytes << 30;
        let whole = Bench::new(&job, budget, budget);
        whole.run(2).unwrap();
        let asked = whole.count().asked;
        let mut told = 0;
        for number in 0..asked {
            let bench = Bench::new(&job, budget, budget);
            bench.streams.refuse(number);
            if let Err(error) = bench.run(2) {
                assert!(
                    matches!(error, Error::Full(_)) && error.to_string().contains("out of memory"),
                    "{error}"
                );
                told += 1;
            }
            assert_eq!(bench.count().refused, 1);
            let Bench { streams, entries, card } = bench;
            for (network, _) in &entries {
                card.forget(network);
            }
            assert_eq!(streams.count().rooms, 0, "lost after piece {number} was refused");
        }
        println!("{gigabytes} GiB: {asked} pieces of memory refused in turn, {told} of them are told");
        // Only what comes when nothing is there yet.
        assert!(told <= 4, "{told}");
    }
}

#[test]
fn a_card_with_less_memory_than_it_said_still_does_its_work() {
    let job = Job::new();
    let bench = Bench::new(&job, 24 << 30, 18 << 30);
    bench.use_once(3).unwrap();
    let first = bench.count();
    assert!(first.refused > 0);
    for _ in 0..3 {
        bench.use_once(3).unwrap();
    }
    let later = bench.count();
    // The work is not begun in vain again, and the weights that do not fit come beside it.
    let (step, floor) = ((later.seconds - first.seconds) / 3.0, job.entries[3].1.work().operations() / SPEED);
    assert!(step <= 1.02 * floor, "{step} s, {floor} s");
    println!("{} refusals in the first step, {} in three more", first.refused, later.refused - first.refused);
}

#[test]
fn when_nothing_is_left_the_numbers_are_told() {
    let job = Job::new();
    let work = working_bytes(&job.entries[3].1);
    // The work fits, and not one block beside it.
    let bench = Bench::new(&job, 24 << 30, OVERHEAD + work + 100_000_000);
    let told = bench.use_once(3).unwrap_err().to_string();
    for words in [
        "out of memory: block 0 of the diffusion model needs ",
        "of the budget of 25769.8 MB",
        "nothing is left",
    ] {
        assert!(told.contains(words), "{told}");
    }
    // And not even the work.
    let bench = Bench::new(&job, 24 << 30, OVERHEAD + work / 2);
    let told = bench.use_once(3).unwrap_err().to_string();
    let needs =
        format!("out of memory: the work (refused by the device itself) needs {:.1} MB", work as f64 / 1e6);
    assert!(told.starts_with(&needs), "{told}");
    assert_eq!(bench.count().held, 0);
}

#[test]
fn a_part_that_cannot_be_read_is_told_and_may_be_tried_again() {
    struct Broken;
    impl Cargo for Broken {
        fn load(&self, write: &mut Write<'_>) -> cuda::Result {
            write(&[0; 10])?;
            Err(Fault::new("reading weights", "the disk is gone"))
        }
    }
    struct Torn;
    impl Cargo for Torn {
        fn load(&self, _: &mut Write<'_>) -> cuda::Result {
            panic!("a thread that copies goes on after this");
        }
    }
    let streams = Streams::new(1000, 1.0);
    let card = Card::new(Books(streams.clone()), Limits { budget: 1000, overhead: 0 });
    let part = |source: Arc<dyn Cargo>| Part { name: "a part".to_owned(), bytes: 100, source };
    let sources: Vec<Arc<dyn Cargo>> = vec![
        Arc::new(Zeros(100)),
        Arc::new(Broken),
        Arc::new(Torn),
        Arc::new(Zeros(101)),
        Arc::new(Zeros(100)),
    ];
    let parts = sources.into_iter().map(part).collect();
    let network = Arc::new(Network { name: "the network".to_owned(), parts, kept: 0, used: Use::Often });
    let sitting = card.sit(&network, 0).unwrap();
    for _ in 0..2 {
        let told: Vec<_> =
            (0..5).map(|index| sitting.part(index).map(drop).map_err(|error| error.to_string())).collect();
        assert_eq!((&told[0], &told[4]), (&Ok(()), &Ok(())));
        let failed =
            |told: &Result<(), String>, words: &str| assert!(told.as_ref().unwrap_err().contains(words));
        failed(&told[1], "the disk is gone");
        failed(&told[2], "cannot be read");
        failed(&told[3], "larger than its room");
    }
    drop(sitting);
    card.forget(&network);
    assert_eq!(streams.count().rooms, 0);
}

/// What the books notice, done by hand.
#[test]
fn a_wrong_order_of_launches_and_copies_is_noticed() {
    let begin = || {
        let streams = Streams::new(1000, 1.0);
        let mut card = Books(streams.clone());
        let (room, way) = (card.blank(10).unwrap(), card.way().unwrap());
        (streams, card, room, way)
    };
    let told = |result: cuda::Result| result.unwrap_err().to_string();
    // A copy that does not wait for the launches before.
    let (_, _, room, mut way) = begin();
    assert!(told(way.copy(&[0; 10], room.at)).contains("launches may still read"));
    // A launch that does not wait for the copy, and memory that goes while it may be under way.
    let (streams, mut card, room, mut way) = begin();
    way.wait(&card.mark().unwrap()).unwrap();
    way.copy(&[0; 10], room.at).unwrap();
    let arrived = way.mark().unwrap();
    assert!(told(card.multiply(&product(room.at, room.at))).contains("may not have arrived"));
    assert!(told(streams.release(room.at)).contains("while a copy may go on"));
    // What has been given back is nobody's.
    assert!(told(streams.release(room.at)).contains("nothing to give back"));
    assert!(told(card.multiply(&product(room.at, room.at))).contains("no memory"));
    assert!(told(way.copy(&[0; 10], room.at)).contains("no memory"));
    // The right order, and what it costs.
    let room = card.blank(10).unwrap();
    way.wait(&card.mark().unwrap()).unwrap();
    way.copy(&[0; 10], room.at).unwrap();
    card.wait(&way.mark().unwrap()).unwrap();
    card.multiply(&product(room.at, room.at)).unwrap();
    // A mark from before says nothing of the later copy.
    way.copy(&[0; 10], room.at).unwrap();
    card.wait(&arrived).unwrap();
    assert!(told(card.multiply(&product(room.at, room.at))).contains("may not have arrived"));
    assert!(near(streams.count().waited, 20.0, 1e-9));
}
