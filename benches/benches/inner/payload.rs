//! Payloads through a ring, each written and read whole: what is copied, and what its sum costs where it has one.

use std::hint::black_box;
use std::os::fd::AsFd;

use criterion::{BenchmarkId, Criterion, Throughput};
use pool_benches::Outcome;
use pool_ipc::{DEFAULT_FRAME_LIMIT, FrameReader, Kind, Region, RingReader, RingWriter, SUMMED_MAX};

/// Bytes of payload: the largest that has a sum, the smallest that has none, and larger ones.
const SIZES: [usize; 4] = [SUMMED_MAX, SUMMED_MAX + 1, 16 << 10, 48 << 10];

/// Both ends of a ring.
struct Lane {
    writer: RingWriter,
    ring: RingReader,
    reader: FrameReader,
}

impl Lane {
    fn new() -> Outcome<Self> {
        let (region, memory) = Region::create()?;
        let (_, ring) = region.supervisor();
        let (_, writer) = Region::open(memory.as_fd())?.worker();
        Ok(Self { writer, ring, reader: FrameReader::new(DEFAULT_FRAME_LIMIT) })
    }

    /// Writes a payload and reads it.
    fn pass(&mut self, payload: &[u8]) {
        let staged = self.writer.frame(Kind::Done, 1, &[black_box(payload)]);
        assert!(staged == Ok(true) && !self.writer.publish(), "there is room, and nobody sleeps");
        loop {
            self.reader.fill_from(&mut self.ring).expect("nobody overwrites the ring");
            if let Some(frame) = self.reader.next_frame().expect("only whole frames are sent") {
                assert_eq!(black_box(&frame).payload.len(), payload.len());
                return;
            }
        }
    }
}

pub(crate) fn payload(criterion: &mut Criterion) {
    let mut lane = Lane::new().expect("a ring can be made");
    let mut group = criterion.benchmark_group("payload");
    for size in SIZES {
        let bytes: Vec<u8> = (0..size).map(|i| ((i * 31) >> 3) as u8).collect();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("through a ring", size), |bencher| {
            bencher.iter(|| lane.pass(&bytes))
        });
    }
    group.finish();
}
