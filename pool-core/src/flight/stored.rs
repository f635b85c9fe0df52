//! The items of a flight whose results are stored; nothing, where there is no store.

#[cfg(feature = "durable")]
mod with {
    use std::time::Instant;

    use pool_store::Store;

    use super::super::{Flight, Source};
    use crate::call::CallOptions;
    use crate::error::TaskError;
    use crate::handle::decode;
    use crate::inbox::Landed;
    use crate::job::Run;
    use crate::outcome::Results;
    use crate::reply::Reply;
    pub(in super::super) use crate::stored::batch::Item;
    use crate::stored::batch::{Asked, HELD, LEAST_HELD, MOST_ASIDE, Stored};

    /// Where a flight has its stored items, once it has had any.
    pub(in super::super) type Slot<R> = Option<Box<Stored<R>>>;

    impl<F, I, R> Flight<F, I, R> {
        /// Where the result of a call is stored: the call says it first, and then the batch.
        #[inline]
        pub(in super::super) fn store_of(&self, options: Option<&CallOptions>) -> Option<Store> {
            options.and_then(|options| options.store.as_ref()).or(self.plan.store.as_ref()).cloned()
        }

        /// Has a call run, unless its result is stored, or somebody else computes it.
        #[cold]
        pub(in super::super) fn ask_store(&mut self, store: Store, item: Item<R>) {
            let size = item.args.len();
            let stored = self.stored.get_or_insert_with(|| Box::new(Stored::new(&self.shared)));
            match stored.ask(store, item) {
                Asked::Aside => self.bytes += size,
                asked => self.go_on(asked),
            }
        }

        fn go_on(&mut self, asked: Asked<R>) {
            match asked {
                Asked::Aside => {}
                Asked::Run(Item { index, kind, entry, args, options, .. }) => {
                    self.enlist(index, kind, entry, args, options);
                }
                Asked::Found(item, reply) => self.found(&item, reply),
            }
        }

        /// The result of an item is known, and decodes.
        fn found(&mut self, item: &Item<R>, reply: Reply) {
            let (bytes, run) = (reply.size(), Run { index: item.index, bytes: 0, kind: item.kind });
            let mut landed = [Landed { run, count: 1, outcome: Ok(Results::One(reply)) }];
            if let Some(memory) = &mut self.memory {
                memory.keep(&mut landed);
            }
            let [Landed { outcome, .. }] = landed;
            let known = match outcome {
                Ok(Results::One(reply)) => decode(item.entry.name, item.decode, reply.encoded()),
                Ok(Results::Run(_)) => return,
                Err(error) => Err(error),
            };
            self.known_bytes += bytes;
            self.known.push((item.index, known));
        }

        /// How many items somebody else computes. They take no room, as long as there are not too many of them.
        #[inline]
        pub(in super::super) fn put_aside(&self) -> usize {
            match &self.stored {
                Some(stored) if self.plan.in_flight.is_none() && stored.aside() < MOST_ASIDE => {
                    stored.aside()
                }
                _ => 0,
            }
        }

        /// Most items that are held where results are stored, so that other programs have something to do.
        #[inline]
        pub(in super::super) fn fair(&self, room: usize) -> usize {
            if self.stored.is_some() { room.min((HELD * self.shared.size()).max(LEAST_HELD)) } else { room }
        }

        /// For how many outcomes to wait: what is stored has to be written before it has ended.
        #[inline]
        pub(in super::super) fn enough(&self, wanted: usize) -> usize {
            if self.stored.is_some() { wanted.min(1) } else { wanted }
        }

        /// When to look for what is aside, and to renew leases.
        #[inline]
        pub(in super::super) fn next_look(&self) -> Option<Instant> {
            self.stored.as_ref().and_then(|stored| stored.due())
        }

        /// Does that, if it is time.
        #[inline]
        pub(crate) fn tend(&mut self) {
            if self.stored.is_some() {
                self.look_around();
            }
        }

        #[cold]
        fn look_around(&mut self) {
            let Some(stored) = &mut self.stored else { return };
            let now = Instant::now();
            let over = match &self.source {
                Source::Refused(error) => Some(error.clone()),
                _ => self
                    .until
                    .filter(|(at, _)| now >= *at)
                    .map(|(_, limit)| TaskError::DeadlineExceeded { limit }),
            };
            if stored.aside() > 0 && (over.is_some() || !self.shared.look(|engine| engine.machine.is_open()))
            {
                for item in stored.give_up().collect::<Vec<_>>() {
                    self.bytes = self.bytes.saturating_sub(item.args.len());
                    match &over {
                        Some(error) => self.known.push((item.index, Err(error.clone()))),
                        // The pool says why it refuses.
                        None => self.go_on(Asked::Run(item)),
                    }
                }
                return self.submit();
            }
            if stored.due().is_none_or(|due| now < due) {
                return;
            }
            for asked in stored.tend(now) {
                if let Asked::Run(item) | Asked::Found(item, _) = &asked {
                    self.bytes = self.bytes.saturating_sub(item.args.len());
                }
                self.go_on(asked);
            }
            self.submit();
        }

        /// Takes out of what has landed what is to be written first.
        #[inline]
        pub(in super::super) fn screen(&mut self, landed: &mut Vec<Landed>) {
            if let Some(stored) = &mut self.stored {
                stored.screen(landed, &self.inbox);
            }
        }

        /// Waits until everything that has come is written, and gives up what is not computed. What has come and is not stored is
        /// returned.
        pub(in super::super) fn stop_storing(&mut self) -> Vec<Landed> {
            if self.is_elsewhere() {
                // Its threads and leases are the parent's.
                std::mem::forget(self.stored.take());
            }
            let Some(mut stored) = self.stored.take() else { return Vec::new() };
            let mut landed = self.inbox.take(Vec::new());
            stored.screen(&mut landed, &self.inbox);
            landed
        }
    }
}

#[cfg(not(feature = "durable"))]
mod without {
    use std::marker::PhantomData;
    use std::time::Instant;

    use super::super::Flight;
    use crate::inbox::Landed;

    /// Nothing is stored.
    pub(in super::super) type Slot<R> = PhantomData<R>;

    impl<F, I, R> Flight<F, I, R> {
        #[inline]
        pub(in super::super) fn put_aside(&self) -> usize {
            0
        }

        #[inline]
        pub(in super::super) fn fair(&self, room: usize) -> usize {
            room
        }

        #[inline]
        pub(in super::super) fn enough(&self, wanted: usize) -> usize {
            wanted
        }

        #[inline]
        pub(in super::super) fn next_look(&self) -> Option<Instant> {
            None
        }

        #[inline]
        pub(crate) fn tend(&mut self) {}

        #[inline]
        pub(in super::super) fn screen(&mut self, _: &mut Vec<Landed>) {}

        pub(in super::super) fn stop_storing(&mut self) -> Vec<Landed> {
            Vec::new()
        }
    }
}

#[cfg(feature = "durable")]
pub(super) use with::{Item, Slot};
#[cfg(not(feature = "durable"))]
pub(super) use without::Slot;
