// The latest frames. It is told their order and only those that it has not seen; it holds still while it is looked at.
export default {
  template: `
    <ul class="lc-frames" @pointerenter="hold" @pointerleave="release" @focusin="focus" @focusout="release">
      <li v-for="key in order" :key="key">
        <button type="button" class="lc-frame" :style="{ '--exit': known[key].colour }" :title="known[key].id"
                :aria-label="known[key].words" @click="$emit('open', key)">
          <img v-if="known[key].picture" :src="known[key].picture" :alt="known[key].name"
               :class="{ 'lc-pixels': known[key].small }" />
          <span v-else class="lc-frame-none">{{ known[key].why }}</span>
          <span class="lc-frame-name">{{ known[key].name }}</span>
          <span class="lc-frame-meta"><b>{{ known[key].exit }}</b><span>{{ known[key].confidence }}</span></span>
          <span v-if="known[key].mark" class="lc-frame-mark">{{ known[key].mark }}</span>
        </button>
      </li>
    </ul>`,
  emits: ["open", "hold", "release"],
  data: () => ({ order: [], known: {}, held: false, waiting: null }),
  methods: {
    show(order, fresh) {
      for (const one of fresh) this.known[one.key] = one;
      this.waiting = order;
      if (!this.held) this.turn();
    },
    turn() {
      if (this.waiting === null) return;
      this.order = this.waiting;
      this.waiting = null;
      const shown = new Set(this.order);
      for (const key of Object.keys(this.known)) if (!shown.has(key)) delete this.known[key];
    },
    hold() {
      if (this.held) return;
      this.held = true;
      this.$emit("hold");
    },
    focus(event) {
      // A click leaves its focus behind, which is no reason to hold on; the keyboard's focus is.
      if (event.target.matches(":focus-visible")) this.hold();
    },
    release() {
      if (!this.held) return;
      this.held = false;
      this.$emit("release");
      this.turn();
    },
  },
};
